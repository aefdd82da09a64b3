"""What the attribution methods share: layers, masks, forward passes and scores."""
