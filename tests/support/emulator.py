"""What messages say of the emulator of the CUDA kernels."""

HOW_TO_EMULATE = 'pip install ".[test]" -C cmake.define.FUSEDLM_SIMT=ON'
