// The part of MLIR's and IREE's C API that the plugin calls, declared here so that building it needs
// no LLVM headers. Everything is resolved at load time from the libIREECompiler.so of the process;
// tools/check_compiler.py checks that each symbol is there.
#ifndef FLASHATTN_COMPILER_MLIR_C_H_
#define FLASHATTN_COMPILER_MLIR_C_H_

#include <stddef.h>
#include <stdint.h>

extern "C" {

typedef struct { const char *data; size_t length; } MlirStringRef;
typedef struct { void *ptr; } MlirContext;
typedef struct { void *ptr; } MlirModule;
typedef struct { void *ptr; } MlirOperation;
typedef struct { void *ptr; } MlirRegion;
typedef struct { void *ptr; } MlirBlock;
typedef struct { void *ptr; } MlirPass;
typedef struct { void *ptr; } MlirOpPassManager;
typedef struct { void *ptr; } MlirExternalPass;
typedef struct { void *ptr; } MlirDialectHandle;  // never made here, only a null list of them
typedef struct { const void *ptr; } MlirAttribute;
typedef struct { const void *ptr; } MlirIdentifier;
typedef struct { const void *ptr; } MlirLocation;
typedef struct { const void *ptr; } MlirTypeID;
typedef struct { int8_t value; } MlirLogicalResult;
typedef struct { MlirIdentifier name; MlirAttribute attribute; } MlirNamedAttribute;

typedef void (*MlirStringCallback)(MlirStringRef, void *user_data);

const char *ireeCompilerGetRevision(void);

MlirContext mlirOperationGetContext(MlirOperation);
MlirLocation mlirOperationGetLocation(MlirOperation);
MlirModule mlirModuleCreateParseFromFile(MlirContext, MlirStringRef path);
MlirOperation mlirModuleGetOperation(MlirModule);
void mlirModuleDestroy(MlirModule);
void mlirOperationWriteBytecode(MlirOperation, MlirStringCallback, void *user_data);
void mlirOperationDestroy(MlirOperation);
void mlirOperationRemoveFromParent(MlirOperation);
MlirRegion mlirOperationGetRegion(MlirOperation, intptr_t);
MlirBlock mlirRegionGetFirstBlock(MlirRegion);
MlirOperation mlirBlockGetFirstOperation(MlirBlock);
void mlirBlockAppendOwnedOperation(MlirBlock, MlirOperation);
intptr_t mlirOperationGetNumAttributes(MlirOperation);
MlirNamedAttribute mlirOperationGetAttribute(MlirOperation, intptr_t);
void mlirOperationSetAttributeByName(MlirOperation, MlirStringRef, MlirAttribute);
MlirStringRef mlirIdentifierStr(MlirIdentifier);
void mlirEmitError(MlirLocation, const char *message);

MlirTypeID mlirTypeIDCreate(const void *);
typedef struct {
  void (*construct)(void *user_data);
  void (*destruct)(void *user_data);
  MlirLogicalResult (*initialize)(MlirContext, void *user_data);
  void *(*clone)(void *user_data);
  void (*run)(MlirOperation, MlirExternalPass, void *user_data);
} MlirExternalPassCallbacks;
MlirPass mlirCreateExternalPass(MlirTypeID, MlirStringRef name, MlirStringRef argument,
                                MlirStringRef description, MlirStringRef op_name,
                                intptr_t dependent_dialect_count, MlirDialectHandle *,
                                MlirExternalPassCallbacks, void *user_data);
void mlirOpPassManagerAddOwnedPass(MlirOpPassManager, MlirPass);
void mlirExternalPassSignalFailure(MlirExternalPass);

}  // extern "C"

#endif  // FLASHATTN_COMPILER_MLIR_C_H_
