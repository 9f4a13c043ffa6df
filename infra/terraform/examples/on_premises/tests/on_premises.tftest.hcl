run "it_has_an_inventory" {
  assert {
    condition     = keys(yamldecode(output.inventory).all.children.workers.hosts) == ["gpu1", "gpu2", "gpu3"]
    error_message = "Three workers."
  }
}
