//! service-core over real sockets and a real PostgreSQL.

mod cluster;
