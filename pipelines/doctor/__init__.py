"""`recsys doctor`: what is wrong with an installation, a bundle, a store or a server; its cure."""
