"""Claims swept over the sample size, stored, judged and drawn."""
