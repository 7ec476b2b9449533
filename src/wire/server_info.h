/*-------------------------------------------------------------------------
 *
 * server_info.h
 *	  What the connected server says of itself.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_SERVER_INFO_H
#define NP_SERVER_INFO_H

#include "utils/jsonb.h"

#include "wire/connection.h"

extern Jsonb *np_server_info(NpConnection *connection);
extern Jsonb *np_server_try_info(NpConnection *connection, NpTime deadline);
extern bool np_server_learn_version(NpConnection *connection, NpFailure *failure);
extern void np_server_refresh_max_payload(NpConnection *connection);
extern bool np_server_is_at_least(NpConnection *connection, int major, int minor);
extern void np_server_require(NpConnection *connection, int major, int minor, const char *feature, const char *hint);

#endif							/* NP_SERVER_INFO_H */
