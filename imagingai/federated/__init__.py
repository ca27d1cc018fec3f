"""Federated training: sites learn on their own data and exchange weights with an aggregator, on Flower."""
