"""Which model replaces one that Google has shut down."""

from worker.gemini.models import KnownModels


def test_an_imagen_model_is_never_a_successor() -> None:
    """Google lists Imagen's models too, but they do not answer the calls that this worker makes."""
    listed = {"imagen-4.0-generate-001", "gemini-9-flash-image", "gemini-9-flash"}
    known = KnownModels(None)
    assert known.instead_of("gemini-2.5-flash-image", listed) == "gemini-9-flash-image"
    assert known.instead_of("gemini-2.5-flash-image", {"imagen-4.0-generate-001"}) is None


def test_successors_in_a_circle_are_each_named_once() -> None:
    """A wrong row of the database keeps no check waiting."""
    hops = {"a": "b", "b": "c", "c": "b"}
    known = KnownModels({"models": [{"model": model, "successor": hops[model]} for model in hops]})
    assert known.successors("a") == ["b", "c"]
