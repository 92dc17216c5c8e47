"""What `make demo` and `make up` show: real orders through the whole of it."""
