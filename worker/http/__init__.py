"""The HTTP functions: who may call, what a body may say, and how they answer."""
