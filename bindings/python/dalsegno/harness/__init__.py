"""Scripted agent conversations, measured with the cache on and off, and beside another engine where one is installed.

    python -m dalsegno.harness SmolLM2-135M-Instruct.Q4_1 --out report

`scenarios` has what is said, `engines` who answers, `report` what is written.
"""
