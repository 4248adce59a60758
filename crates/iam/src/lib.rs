//! Who is asking, and may they: tokens and their cache, passwords, users, global roles.
