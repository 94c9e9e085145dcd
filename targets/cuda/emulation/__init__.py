"""C++ that stands in for CUDA when a .cu file is run on the CPU (targets/cuda/emulate.py)."""
