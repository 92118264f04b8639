//! The program: one command, one exit code. Everything else is in the library.

fn main() {
    std::process::exit(pinpost::cli::main())
}
