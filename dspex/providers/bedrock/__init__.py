"""Amazon Bedrock's protocol: `converse`, with `request`, `answer` and the framing of its streams in `eventstream`.

`credentials` finds keys where AWS's tools keep them; `sigv4` signs with them.
"""
