//! The two 8237 DMA controllers of a PC and their page registers.
