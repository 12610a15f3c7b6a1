"""Generate images with a trained model.

How an image is generated (``XMDPTPipeline.__call__`` in ``pipeline.py`` runs these steps):

1. Inputs: ``inputs.read_view`` frames a source image to (S, S, 3), S the model's resolution, and
   ``inputs.read_pose`` reads the pose as 18 keypoints in pixels of such a square.
2. Noise: ``generation.ImageRequest.start_noise``, from the seed and the number of the image.
3. Conditioning: ``conditioning.encode_conditions`` renders the pose image and encodes it with
   DINOv2-B, and encodes the source with DINOv2-G and the VAE. For the pairs of a prepared dataset
   (``dataset_images.generate``) these features are read from its shards instead.
4. Sampling: ``sampler.Sampler.latents`` turns the conditions into the model's condition vector and
   runs the solver (``diffusion.sample``) from the noise to latents.
5. Decoding: ``Decoder.decode`` turns latents into pixels; ``images.unsquash`` restores 176:256.

Steps 3 to 5 run in batches in ``generation.generate_batches``, for every kind of input.
docs/sampling.md, "What decides the pixels", lists all that they depend on;
``Sampler.described`` is what records and PNGs store of it.
"""
