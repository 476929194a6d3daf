"""Schedule and workers: everything that runs by itself, on one machine or several.

`start` is the door: it loads the queue's library, which no other command needs.
"""
