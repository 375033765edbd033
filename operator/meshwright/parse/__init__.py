"""Raw dicts to model values, one object at a time."""
