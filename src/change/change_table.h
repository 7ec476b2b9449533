/*-------------------------------------------------------------------------
 *
 * change_table.h
 *	  The triggers that nats_publish_table() creates.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_CHANGE_TABLE_H
#define NP_CHANGE_TABLE_H

extern bool np_change_table_names(const char *trigger);

#endif							/* NP_CHANGE_TABLE_H */
