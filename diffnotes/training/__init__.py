"""Networks and their training: what a run needs, from one laptop core to several GPUs, and the command line's work."""
