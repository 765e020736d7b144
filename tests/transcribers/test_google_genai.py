"""The engine by google-genai: what both engines do, and what is its own."""

from .gemini_answers import AnswerCases
from .gemini_jobs import JobCases
from .gemini_making import MakingCases


class TestGoogleGenai(AnswerCases, JobCases, MakingCases):
    name = "google-genai"
    most_copies = 7.0
    most_declared = 8.5
