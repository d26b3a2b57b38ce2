"""What recording costs a program."""
