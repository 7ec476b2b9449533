/*-------------------------------------------------------------------------
 *
 * login.h
 *	  As whom to log in to a server, and how to trust it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_LOGIN_H
#define NP_LOGIN_H

#include "wire/server_pool.h"

extern const char *np_login_kind(const NpServer *server, const NpServerUrl *url);
extern bool np_login_fill(NpWireTarget *target, const NpServer *server, const NpPoolServer *picked,
						  char *error, size_t error_size);

#endif							/* NP_LOGIN_H */
