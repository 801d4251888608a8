"""What a network costs: MACs by precision, OPs, bytes, expected costs, latency, budgets."""
