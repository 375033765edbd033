"""What `meshwright group` is made of: tokens to join with, how groups of machines are, and taking them away."""
