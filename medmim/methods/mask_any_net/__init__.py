"""MaskAnyNet (arXiv 2511.12480): a second branch reuses what the mask removed."""
