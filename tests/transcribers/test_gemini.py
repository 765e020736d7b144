"""The engine by google-generativeai: what both engines do, and what is its own."""

from .gemini_answers import AnswerCases
from .gemini_jobs import JobCases
from .gemini_making import MakingCases


class TestGemini(AnswerCases, JobCases, MakingCases):
    name = "gemini"
    most_copies = 8.5
    most_declared = 8.5
