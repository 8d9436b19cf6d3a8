"""The engine side: blocks, sequences, the scheduler, the worker process and the server's end of its wire."""
