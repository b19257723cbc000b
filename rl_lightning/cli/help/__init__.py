"""What the program tells of itself: the short helps, the settings of a class, and words for the Tab key."""
