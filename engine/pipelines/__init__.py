"""Text in, answer out: tokenizing, the engine and post-processing behind one call.

pipeline = Pipeline.create("question_answering", "path/to/deployment")
pipeline(question="Who?", context="...").answer
"""

from engine.pipelines.pipeline import Pipeline

__all__ = ["Pipeline"]
