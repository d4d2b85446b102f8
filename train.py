"""Train a separator: ``python train.py configs/cws_vocals.py --data.root DIR``; ``--help`` lists the configs."""

from jaxmss.training.command import main

if __name__ == "__main__":
    main()
