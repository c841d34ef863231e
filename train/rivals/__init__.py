"""What the loop is compared with: other ways to make a better policy from the same base, at the same cost."""
