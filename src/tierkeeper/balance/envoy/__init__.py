"""The data plane by Envoy: pools become its documents (pure), files feed them to it, its own socket tells what it saw."""
