"""Pure decisions of the queue service: no I/O, no clock."""
