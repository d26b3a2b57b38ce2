"""Train a small neural network on scikit-learn's handwritten digits (real data, shipped in the package).

Run it as it is: `python examples/digits/train.py`. Towline records it as the job "digits-train", which
`towline submit digits-train --set learning_rate=0.003` then runs anywhere.
"""

import json

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt
from sklearn.datasets import load_digits
from sklearn.metrics import ConfusionMatrixDisplay
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier
from sklearn.preprocessing import StandardScaler

import towline

run = towline.init(
    job="digits-train",
    config={"learning_rate": 0.001, "hidden_units": 32, "epochs": 10, "test_fraction": 0.25, "seed": 0},
)
config = run.config

images, labels = load_digits(return_X_y=True)
train_x, test_x, train_y, test_y = train_test_split(
    images, labels, test_size=config.test_fraction, random_state=config.seed, stratify=labels
)
scaler = StandardScaler().fit(train_x)
train_x, test_x = scaler.transform(train_x), scaler.transform(test_x)

model = MLPClassifier(
    hidden_layer_sizes=(config.hidden_units,),
    learning_rate_init=config.learning_rate,
    random_state=config.seed,
)
for epoch in range(1, config.epochs + 1):
    model.partial_fit(train_x, train_y, classes=range(10))
    accuracy = model.score(test_x, test_y)
    print(f"epoch {epoch:3}/{config.epochs}  loss {model.loss_:.4f}  test accuracy {accuracy:.4f}")

metrics = {"accuracy": round(accuracy, 4), "loss": round(float(model.loss_), 4), "config": dict(config)}
(run.outputs / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")

ConfusionMatrixDisplay.from_estimator(model, test_x, test_y, colorbar=False)
plt.title(f"digits: test accuracy {accuracy:.3f}")
plt.savefig(run.outputs / "confusion.png", dpi=120)
