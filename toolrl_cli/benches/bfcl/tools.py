"""BFCL's function documents as OpenAI tools."""

from __future__ import annotations

from toolrl_cli.records import Json

JSON_TYPES = {
    **dict.fromkeys(("dict", "object", "HashMap", "Hashtable"), "object"),
    **dict.fromkeys(("array", "tuple", "Array", "ArrayList", "Set", "Queue", "Stack"), "array"),
    **dict.fromkeys(("float", "number", "double"), "number"),
    **dict.fromkeys(("integer", "byte", "short", "long", "Bigint"), "integer"),
    **dict.fromkeys(("boolean", "Boolean"), "boolean"),
    **dict.fromkeys(("string", "String", "char"), "string"),
}


def to_tool(function: Json) -> Json:
    """An OpenAI tool with the function's name as it is (dots kept) and its parameters as JSON schema."""
    return {"type": "function", "function": {**function, "parameters": to_schema(function["parameters"])}}


def to_schema(document: Json) -> Json:
    """JSON schema with JSON's type names; `any` and whatever is no type become no type, which allows every value."""
    schema: Json = {}
    for key, value in document.items():
        if key == "type":
            schema |= {"type": JSON_TYPES[value]} if value in JSON_TYPES else {}
        elif key == "properties":
            schema[key] = {name: to_schema(inner) for name, inner in value.items()}
        elif key == "items":
            schema[key] = to_schema(value)
        else:
            schema[key] = value
    return schema
