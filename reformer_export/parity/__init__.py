"""Compare an artifact with unpatched eager transformers.

Nothing is imported here: what judges (cases, compare, results, replay) needs neither torch nor onnx.
"""
