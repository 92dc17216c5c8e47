"""What the parts share: the stack, the scale, and the output of figures."""
