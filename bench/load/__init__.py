"""Load generators and probes. They run in processes of their own, so that what they use isn't counted as Milkrun's."""
