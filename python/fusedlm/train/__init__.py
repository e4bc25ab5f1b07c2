"""Training: settings, schedule, loop, checkpoints, metrics and plots; loaded on first use."""

from __future__ import annotations

from fusedlm._lazy import lazy

_HOME = {
    "ChatTuning": "chat_tuning",
    "PreferenceTuning": "preference",
    "AnswerTokens": "answer_tokens",
    "with_template": "answer_tokens",
    "Classification": "classification",
    "LanguageModelling": "language_modelling",
    "Task": "task",
    "Sequences": "length_batches",
    "QuestionAnswering": "question_answering",
    "TokenClassification": "token_classification",
    "TrainConfig": "config",
    "TrainResult": "loop",
    "evaluate": "evaluation",
    "fit": "loop",
    "fit_probe": "linear_probe",
    "learning_rate": "schedule",
    "load_checkpoint": "checkpoint",
    "plot_curve": "plot",
    "read_metrics": "metrics",
    "train": "language_modelling",
    "Translation": "translation",
}
__all__ = list(_HOME)
__getattr__ = lazy(__name__, _HOME)
