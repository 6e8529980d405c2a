"""Adapters: a served model as other frameworks want to see it.

Each module needs the extra of its name and is imported on its own: `lasttoken.adapters.langchain`,
`lasttoken.adapters.llama_index`, `lasttoken.adapters.mteb`.
"""
