"""What `meshwright check` looks at: one module a group of checks, and what they are made of."""
