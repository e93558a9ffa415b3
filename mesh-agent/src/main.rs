fn main() {
    mesh_agent::kernel::try_load()
}
