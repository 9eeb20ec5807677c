"""The shared training core: layers, losses, the loop that every net here is made of."""
