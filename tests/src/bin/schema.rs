//! Prints the core's table of known fields, made from the schema in `proto`.

fn main() {
    print!("{}", meshbeat_tests::schema::generate());
}
