"""Training of the VAE: fine-tuning the decoder, and toy VAEs from scratch."""
