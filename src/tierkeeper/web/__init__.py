"""What a browser, Prometheus and the command line reach of a running balancer: its control interface, its page, its metrics."""
