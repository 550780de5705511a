"""OpenAI's protocols, and whoever else speaks them.

`chat` is chat completions, with `chat_request` and `chat_answer`; `responses` the Responses API; `embeddings` and
`batch` are what their names say. `azure` and `compatible` are other servers of the same protocols; `site`, `schema` and
`errors` are what all of them share.
"""
