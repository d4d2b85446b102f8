"""Score a separator on a test set: ``python eval.py --ckpt NAME|DIRECTORY --data.root DIR --output DIR``."""

from jaxmss.evaluation.command import main

if __name__ == "__main__":
    main()
