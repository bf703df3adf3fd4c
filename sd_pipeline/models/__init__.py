"""The networks: autoencoder and U-Net."""
