"""Networks and their training, from one laptop core to several GPUs, and the work of the command line."""
