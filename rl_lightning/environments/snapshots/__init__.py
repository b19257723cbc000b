"""An environment's attributes as plain data, and back into the attributes of another one."""
