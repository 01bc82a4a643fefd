"""Why is it polysemantic? Signatures of a site, each with a null, and the answer that follows from them."""

from polyseme.diagnosis.config import ANSWERS, Answer, DiagnosisConfig
from polyseme.diagnosis.diagnose import Diagnosis, diagnose

__all__ = ["ANSWERS", "Answer", "Diagnosis", "DiagnosisConfig", "diagnose"]
