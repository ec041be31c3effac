"""Everything on one machine without containers: a supervisor for the processes, and the demo of them at work."""
